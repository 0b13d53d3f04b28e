"""Well-known molecules: name, SMILES, what it is, what it is used for or does. Numbers about them are computed by rdkit."""

from __future__ import annotations

from typing import NamedTuple


class Molecule(NamedTuple):
    """One substance. `role` completes "NAME is ..."; `use` completes "It ..."."""

    name: str
    smiles: str
    role: str
    use: str


_ROWS = """
aspirin|CC(=O)Oc1ccccc1C(=O)O|a nonsteroidal anti-inflammatory drug|irreversibly acetylates cyclooxygenase
ibuprofen|CC(C)Cc1ccc(cc1)C(C)C(=O)O|a nonsteroidal anti-inflammatory drug|relieves pain and fever by inhibiting cyclooxygenase
naproxen|COc1ccc2cc(ccc2c1)C(C)C(=O)O|a nonsteroidal anti-inflammatory drug|relieves pain by inhibiting cyclooxygenase
diclofenac|OC(=O)Cc1ccccc1Nc1c(Cl)cccc1Cl|a nonsteroidal anti-inflammatory drug|relieves pain by inhibiting cyclooxygenase
paracetamol|CC(=O)Nc1ccc(O)cc1|an analgesic and antipyretic|relieves pain and fever
salicylic acid|OC(=O)c1ccccc1O|a phenolic acid|softens the horny layer of the skin
caffeine|Cn1cnc2c1c(=O)n(C)c(=O)n2C|a methylxanthine stimulant|blocks adenosine receptors
theophylline|Cn1c2[nH]cnc2c(=O)n(C)c1=O|a methylxanthine bronchodilator|relaxes the smooth muscle of the airways
nicotine|CN1CCCC1c1cccnc1|an alkaloid of tobacco|activates nicotinic acetylcholine receptors
morphine|CN1CCC23C4Oc5c(O)ccc(CC1C2C=CC4O)c35|an opioid analgesic|activates the mu-opioid receptor
codeine|COc1ccc2CC3N(C)CCC45C(Oc1c24)C(O)C=CC35|an opioid analgesic|is converted to morphine by the enzyme CYP2D6
lidocaine|CCN(CC)CC(=O)Nc1c(C)cccc1C|a local anaesthetic|blocks voltage-gated sodium channels
benzocaine|CCOC(=O)c1ccc(N)cc1|a local anaesthetic|blocks voltage-gated sodium channels
procaine|CCN(CC)CCOC(=O)c1ccc(N)cc1|a local anaesthetic|blocks voltage-gated sodium channels
metformin|CN(C)C(=N)N=C(N)N|a biguanide|lowers blood glucose in type 2 diabetes
propranolol|CC(C)NCC(O)COc1cccc2ccccc12|a beta blocker|lowers heart rate and blood pressure
atenolol|CC(C)NCC(O)COc1ccc(CC(N)=O)cc1|a beta blocker|lowers heart rate and blood pressure
metoprolol|COCCc1ccc(OCC(O)CNC(C)C)cc1|a beta blocker|lowers heart rate and blood pressure
salbutamol|CC(C)(C)NCC(O)c1ccc(O)c(CO)c1|a beta-2 agonist|opens the airways in asthma
captopril|CC(CS)C(=O)N1CCCC1C(=O)O|an ACE inhibitor|lowers blood pressure
enalapril|CCOC(=O)C(CCc1ccccc1)NC(C)C(=O)N1CCCC1C(=O)O|an ACE inhibitor|lowers blood pressure
amlodipine|CCOC(=O)C1=C(COCCN)NC(C)=C(C(=O)OC)C1c1ccccc1Cl|a calcium channel blocker|lowers blood pressure
nifedipine|COC(=O)C1=C(C)NC(C)=C(C(=O)OC)C1c1ccccc1[N+](=O)[O-]|a calcium channel blocker|lowers blood pressure
furosemide|NS(=O)(=O)c1cc(C(=O)O)c(NCc2ccco2)cc1Cl|a loop diuretic|increases the excretion of salt and water
hydrochlorothiazide|NS(=O)(=O)c1cc2c(cc1Cl)NCNS2(=O)=O|a thiazide diuretic|increases the excretion of salt and water
warfarin|CC(=O)CC(c1ccccc1)c1c(O)c2ccccc2oc1=O|an anticoagulant|inhibits vitamin K epoxide reductase
omeprazole|COc1ccc2[nH]c(nc2c1)S(=O)Cc1ncc(C)c(OC)c1C|a proton pump inhibitor|reduces the secretion of gastric acid
cimetidine|CN=C(NCCSCc1nc[nH]c1C)NC#N|an H2 receptor antagonist|reduces the secretion of gastric acid
diphenhydramine|CN(C)CCOC(c1ccccc1)c1ccccc1|an H1 antihistamine|relieves allergic symptoms and causes drowsiness
loratadine|CCOC(=O)N1CCC(=C2c3ccc(Cl)cc3CCc3cccnc23)CC1|an H1 antihistamine|relieves allergic symptoms
cetirizine|OC(=O)COCCN1CCN(CC1)C(c1ccccc1)c1ccc(Cl)cc1|an H1 antihistamine|relieves allergic symptoms
fluoxetine|CNCCC(Oc1ccc(cc1)C(F)(F)F)c1ccccc1|a selective serotonin reuptake inhibitor|treats depression
sertraline|CNC1CCC(c2ccc(Cl)c(Cl)c2)c2ccccc12|a selective serotonin reuptake inhibitor|treats depression
amitriptyline|CN(C)CCC=C1c2ccccc2CCc2ccccc12|a tricyclic antidepressant|treats depression and neuropathic pain
imipramine|CN(C)CCCN1c2ccccc2CCc2ccccc12|a tricyclic antidepressant|treats depression
diazepam|CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc12|a benzodiazepine|enhances the effect of GABA at the GABA-A receptor
haloperidol|O=C(CCCN1CCC(O)(CC1)c1ccc(Cl)cc1)c1ccc(F)cc1|an antipsychotic|blocks dopamine D2 receptors
chlorpromazine|CN(C)CCCN1c2ccccc2Sc2ccc(Cl)cc12|an antipsychotic|blocks dopamine D2 receptors
carbamazepine|NC(=O)N1c2ccccc2C=Cc2ccccc12|an anticonvulsant|stabilises voltage-gated sodium channels
phenytoin|O=C1NC(=O)C(N1)(c1ccccc1)c1ccccc1|an anticonvulsant|stabilises voltage-gated sodium channels
valproic acid|CCCC(CCC)C(=O)O|an anticonvulsant|treats epilepsy and bipolar disorder
phenobarbital|CCC1(C(=O)NC(=O)NC1=O)c1ccccc1|a barbiturate|treats epilepsy
levodopa|NC(Cc1ccc(O)c(O)c1)C(=O)O|a precursor of dopamine|treats Parkinson disease
penicillin G|CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O|a beta-lactam antibiotic|inhibits the synthesis of the bacterial cell wall
amoxicillin|CC1(C)SC2C(NC(=O)C(N)c3ccc(O)cc3)C(=O)N2C1C(=O)O|a beta-lactam antibiotic|inhibits the synthesis of the bacterial cell wall
ciprofloxacin|OC(=O)c1cn(C2CC2)c2cc(N3CCNCC3)c(F)cc2c1=O|a fluoroquinolone antibiotic|inhibits bacterial DNA gyrase
trimethoprim|COc1cc(Cc2cnc(N)nc2N)cc(OC)c1OC|an antibiotic|inhibits bacterial dihydrofolate reductase
sulfamethoxazole|Cc1cc(NS(=O)(=O)c2ccc(N)cc2)no1|a sulfonamide antibiotic|inhibits bacterial folate synthesis
metronidazole|Cc1ncc([N+](=O)[O-])n1CCO|a nitroimidazole antibiotic|kills anaerobic bacteria
chloramphenicol|OCC(NC(=O)C(Cl)Cl)C(O)c1ccc(cc1)[N+](=O)[O-]|an antibiotic|inhibits protein synthesis at the bacterial ribosome
linezolid|CC(=O)NCC1CN(C(=O)O1)c1ccc(N2CCOCC2)c(F)c1|an oxazolidinone antibiotic|inhibits protein synthesis at the bacterial ribosome
isoniazid|NNC(=O)c1ccncc1|an antituberculosis drug|inhibits the synthesis of mycolic acids
pyrazinamide|NC(=O)c1cnccn1|an antituberculosis drug|treats tuberculosis
fluconazole|OC(Cn1cncn1)(Cn1cncn1)c1ccc(F)cc1F|an azole antifungal|inhibits the synthesis of ergosterol
chloroquine|CCN(CC)CCCC(C)Nc1ccnc2cc(Cl)ccc12|an antimalarial drug|prevents the detoxification of haem in the malaria parasite
quinine|COc1ccc2nccc(C(O)C3CC4CCN3CC4C=C)c2c1|an antimalarial alkaloid|treats malaria
aciclovir|Nc1nc2c(ncn2COCCO)c(=O)[nH]1|an antiviral drug|inhibits herpesvirus DNA polymerase
zidovudine|Cc1cn(C2CC(N=[N+]=[N-])C(CO)O2)c(=O)[nH]c1=O|a nucleoside reverse transcriptase inhibitor|treats HIV infection
lamivudine|Nc1ccn(C2CSC(CO)O2)c(=O)n1|a nucleoside reverse transcriptase inhibitor|treats HIV infection
ribavirin|NC(=O)c1ncn(C2OC(CO)C(O)C2O)n1|a nucleoside antiviral drug|treats hepatitis C in combination with other drugs
fluorouracil|O=c1[nH]cc(F)c(=O)[nH]1|an antimetabolite|inhibits thymidylate synthase
methotrexate|CN(Cc1cnc2nc(N)nc(N)c2n1)c1ccc(cc1)C(=O)NC(CCC(=O)O)C(=O)O|an antimetabolite|inhibits dihydrofolate reductase
mercaptopurine|S=c1[nH]cnc2nc[nH]c12|an antimetabolite|treats acute lymphoblastic leukaemia
cyclophosphamide|ClCCN(CCCl)P1(=O)NCCCO1|an alkylating agent|cross-links DNA after activation in the liver
tamoxifen|CCC(=C(c1ccccc1)c1ccc(OCCN(C)C)cc1)c1ccccc1|a selective oestrogen receptor modulator|treats oestrogen receptor-positive breast cancer
imatinib|Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(n1)-c1cccnc1|a tyrosine kinase inhibitor|treats chronic myeloid leukaemia
gefitinib|COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1|a tyrosine kinase inhibitor|inhibits the epidermal growth factor receptor
erlotinib|COCCOc1cc2ncnc(Nc3cccc(c3)C#C)c2cc1OCCOC|a tyrosine kinase inhibitor|inhibits the epidermal growth factor receptor
allopurinol|O=c1[nH]cnc2[nH]ncc12|a xanthine oxidase inhibitor|lowers uric acid in gout
sildenafil|CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(ccc1OCC)S(=O)(=O)N1CCN(C)CC1|a phosphodiesterase 5 inhibitor|treats erectile dysfunction
testosterone|CC12CCC3C(CCC4=CC(=O)CCC34C)C1CCC2O|an androgen|is the principal male sex hormone
progesterone|CC(=O)C1CCC2C3CCC4=CC(=O)CCC4(C)C3CCC12C|a steroid hormone|maintains pregnancy
estradiol|CC12CCC3c4ccc(O)cc4CCC3C1CCC2O|an oestrogen|is the principal female sex hormone
cortisol|CC12CCC(=O)C=C1CCC1C2C(O)CC2(C)C1CCC2(O)C(=O)CO|a glucocorticoid|raises blood glucose during stress
cholesterol|CC(C)CCCC(C)C1CCC2C3CC=C4CC(O)CCC4(C)C3CCC12C|a sterol|stiffens animal cell membranes
dopamine|NCCc1ccc(O)c(O)c1|a catecholamine neurotransmitter|is made from levodopa
adrenaline|CNCC(O)c1ccc(O)c(O)c1|a catecholamine hormone|raises heart rate
noradrenaline|NCC(O)c1ccc(O)c(O)c1|a catecholamine neurotransmitter|constricts blood vessels
serotonin|NCCc1c[nH]c2ccc(O)cc12|a monoamine neurotransmitter|is made from tryptophan
melatonin|COc1ccc2[nH]cc(CCNC(C)=O)c2c1|a hormone of the pineal gland|regulates the sleep-wake cycle
histamine|NCCc1c[nH]cn1|a biogenic amine|is released by mast cells in allergic reactions
acetylcholine|CC(=O)OCC[N+](C)(C)C|a neurotransmitter|acts at the neuromuscular junction
GABA|NCCCC(=O)O|an inhibitory neurotransmitter|is made from glutamate
glutamic acid|NC(CCC(=O)O)C(=O)O|an amino acid|is an excitatory neurotransmitter
glycine|NCC(=O)O|an amino acid|is an inhibitory neurotransmitter in the spinal cord
creatine|CN(CC(=O)O)C(=N)N|a nitrogenous acid|stores energy in muscle as a phosphate
urea|NC(N)=O|a waste product|carries nitrogen out of the body in urine
uric acid|O=c1[nH]c(=O)c2[nH]c(=O)[nH]c2[nH]1|a product of purine metabolism|crystallises in the joints in gout
adenine|Nc1ncnc2[nH]cnc12|a purine base|pairs with thymine in DNA
guanine|Nc1nc2[nH]cnc2c(=O)[nH]1|a purine base|pairs with cytosine in DNA
cytosine|Nc1cc[nH]c(=O)n1|a pyrimidine base|pairs with guanine in DNA
thymine|Cc1c[nH]c(=O)[nH]c1=O|a pyrimidine base|pairs with adenine in DNA
uracil|O=c1cc[nH]c(=O)[nH]1|a pyrimidine base|replaces thymine in RNA
adenosine|Nc1ncnc2c1ncn2C1OC(CO)C(O)C1O|a nucleoside|slows conduction through the atrioventricular node
glucose|OCC1OC(O)C(O)C(O)C1O|a hexose sugar|is the main fuel of the brain
lactic acid|CC(O)C(=O)O|a hydroxy acid|is the end product of anaerobic glycolysis
pyruvic acid|CC(=O)C(=O)O|a keto acid|is the end product of aerobic glycolysis
citric acid|OC(=O)CC(O)(CC(=O)O)C(=O)O|a tricarboxylic acid|gives the citric acid cycle its name
succinic acid|OC(=O)CCC(=O)O|a dicarboxylic acid|is an intermediate of the citric acid cycle
fumaric acid|OC(=O)C=CC(=O)O|a dicarboxylic acid|is an intermediate of the citric acid cycle
ascorbic acid|OCC(O)C1OC(=O)C(O)=C1O|vitamin C|is required for the hydroxylation of collagen
nicotinamide|NC(=O)c1cccnc1|a form of vitamin B3|is a part of the coenzyme NAD
pyridoxine|Cc1ncc(CO)c(CO)c1O|a form of vitamin B6|is the precursor of pyridoxal phosphate
retinol|CC1=C(C(C)(C)CCC1)C=CC(C)=CC=CC(C)=CCO|vitamin A|is oxidised to retinal, the chromophore of rhodopsin
biotin|OC(=O)CCCCC1SCC2NC(=O)NC12|vitamin B7|is the coenzyme of carboxylases
riboflavin|Cc1cc2nc3c(=O)[nH]c(=O)nc-3n(CC(O)C(O)C(O)CO)c2cc1C|vitamin B2|is the precursor of FAD
arachidonic acid|CCCCCC=CCC=CCC=CCC=CCCCC(=O)O|a polyunsaturated fatty acid|is the precursor of prostaglandins
oleic acid|CCCCCCCCC=CCCCCCCCC(=O)O|a monounsaturated fatty acid|is the main fatty acid of olive oil
palmitic acid|CCCCCCCCCCCCCCCC(=O)O|a saturated fatty acid|is the first fatty acid made by fatty acid synthase
ethanol|CCO|an alcohol|is oxidised to acetaldehyde by alcohol dehydrogenase
glycerol|OCC(O)CO|a triol|is the backbone of triglycerides
camphor|CC1(C)C2CCC1(C)C(=O)C2|a terpenoid|has a cooling effect on the skin
menthol|CC(C)C1CCC(C)CC1O|a terpenoid of mint|activates the cold receptor TRPM8
capsaicin|COc1cc(CNC(=O)CCCCC=CC(C)C)ccc1O|the pungent compound of chilli peppers|activates the heat receptor TRPV1
curcumin|COc1cc(C=CC(=O)CC(=O)C=Cc2ccc(O)c(OC)c2)ccc1O|a polyphenol of turmeric|gives turmeric its yellow colour
resveratrol|Oc1ccc(C=Cc2cc(O)cc(O)c2)cc1|a stilbenoid of grapes|is produced by plants under attack
quercetin|O=c1c(O)c(oc2cc(O)cc(O)c12)-c1ccc(O)c(O)c1|a flavonol|occurs in onions and apples
""".strip()

MOLECULES: tuple[Molecule, ...] = tuple(
    Molecule(*(part.strip() for part in row.split("|"))) for row in _ROWS.splitlines()
)
