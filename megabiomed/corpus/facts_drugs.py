"""Well-known medicines: name, molecular formula, class, one use, structure.

The formula is written down independently of the SMILES, so that a test can check each against the other. SMILES are
without stereochemistry. `is used ...` completes the sentence of the use.
"""

from __future__ import annotations

DRUGS = """
aspirin|C9H8O4|nonsteroidal anti-inflammatory drug|to relieve pain and fever|CC(=O)Oc1ccccc1C(=O)O
salicylic acid|C7H6O3|keratolytic|on the skin to treat warts|OC(=O)c1ccccc1O
ibuprofen|C13H18O2|nonsteroidal anti-inflammatory drug|to relieve pain and inflammation|CC(C)Cc1ccc(cc1)C(C)C(=O)O
naproxen|C14H14O3|nonsteroidal anti-inflammatory drug|to treat pain in arthritis|COc1ccc2cc(ccc2c1)C(C)C(=O)O
ketoprofen|C16H14O3|nonsteroidal anti-inflammatory drug|to treat pain in arthritis|CC(C(=O)O)c1cccc(c1)C(=O)c1ccccc1
diclofenac|C14H11Cl2NO2|nonsteroidal anti-inflammatory drug|to relieve pain and inflammation|\
OC(=O)Cc1ccccc1Nc1c(Cl)cccc1Cl
indomethacin|C19H16ClNO4|nonsteroidal anti-inflammatory drug|to treat acute gout|\
COc1ccc2c(c1)c(CC(=O)O)c(C)n2C(=O)c1ccc(Cl)cc1
celecoxib|C17H14F3N3O2S|selective cyclooxygenase-2 inhibitor|to treat osteoarthritis|\
Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F
paracetamol|C8H9NO2|analgesic|to relieve mild pain and fever|CC(=O)Nc1ccc(O)cc1
caffeine|C8H10N4O2|methylxanthine stimulant|to treat apnoea of prematurity|Cn1cnc2c1c(=O)n(C)c(=O)n2C
theophylline|C7H8N4O2|methylxanthine bronchodilator|to treat asthma|Cn1c(=O)c2[nH]cnc2n(C)c1=O
morphine|C17H19NO3|opioid analgesic|to relieve severe pain|CN1CCC23C4Oc5c2c(CC1C3C=CC4O)ccc5O
codeine|C18H21NO3|opioid analgesic|to relieve moderate pain|CN1CCC23C4Oc5c2c(CC1C3C=CC4O)ccc5OC
naloxone|C19H21NO4|opioid antagonist|to reverse opioid overdose|C=CCN1CCC23C4Oc5c2c(CC1C3(O)CCC4=O)ccc5O
fentanyl|C22H28N2O|synthetic opioid analgesic|to relieve severe pain|CCC(=O)N(c1ccccc1)C1CCN(CCc2ccccc2)CC1
methadone|C21H27NO|synthetic opioid|to treat opioid dependence|CCC(=O)C(CC(C)N(C)C)(c1ccccc1)c1ccccc1
tramadol|C16H25NO2|opioid analgesic|to relieve moderate pain|COc1cccc(c1)C1(O)CCCCC1CN(C)C
lidocaine|C14H22N2O|amide local anaesthetic|to numb tissue before small operations|CCN(CC)CC(=O)Nc1c(C)cccc1C
procaine|C13H20N2O2|ester local anaesthetic|to numb tissue before dental work|CCN(CC)CCOC(=O)c1ccc(N)cc1
benzocaine|C9H11NO2|ester local anaesthetic|on the skin to relieve pain|CCOC(=O)c1ccc(N)cc1
propofol|C12H18O|intravenous anaesthetic|to induce general anaesthesia|CC(C)c1cccc(C(C)C)c1O
ketamine|C13H16ClNO|dissociative anaesthetic|to induce anaesthesia|CNC1(CCCCC1=O)c1ccccc1Cl
diazepam|C16H13ClN2O|benzodiazepine|to treat anxiety and seizures|CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc12
lorazepam|C15H10Cl2N2O2|benzodiazepine|to treat status epilepticus|OC1N=C(c2ccccc2Cl)c2cc(Cl)ccc2NC1=O
midazolam|C18H13ClFN3|benzodiazepine|to sedate patients before procedures|Cc1ncc2n1-c1ccc(Cl)cc1C(=NC2)c1ccccc1F
phenobarbital|C12H12N2O3|barbiturate|to treat epilepsy|CCC1(C(=O)NC(=O)NC1=O)c1ccccc1
phenytoin|C15H12N2O2|anticonvulsant|to treat tonic-clonic seizures|O=C1NC(=O)C(N1)(c1ccccc1)c1ccccc1
carbamazepine|C15H12N2O|anticonvulsant|to treat epilepsy and trigeminal neuralgia|NC(=O)N1c2ccccc2C=Cc2ccccc12
valproic acid|C8H16O2|anticonvulsant|to treat epilepsy and bipolar disorder|CCCC(CCC)C(=O)O
lamotrigine|C9H7Cl2N5|anticonvulsant|to treat epilepsy and bipolar disorder|Nc1nnc(c(N)n1)-c1cccc(Cl)c1Cl
levetiracetam|C8H14N2O2|anticonvulsant|to treat epilepsy|CCC(C(N)=O)N1CCCC1=O
gabapentin|C9H17NO2|anticonvulsant|to treat neuropathic pain|NCC1(CC(=O)O)CCCCC1
fluoxetine|C17H18F3NO|selective serotonin reuptake inhibitor|to treat depression|\
CNCCC(Oc1ccc(cc1)C(F)(F)F)c1ccccc1
sertraline|C17H17Cl2N|selective serotonin reuptake inhibitor|to treat depression|CNC1CCC(c2ccc(Cl)c(Cl)c2)c2ccccc12
citalopram|C20H21FN2O|selective serotonin reuptake inhibitor|to treat depression|\
CN(C)CCCC1(OCc2cc(ccc12)C#N)c1ccc(F)cc1
amitriptyline|C20H23N|tricyclic antidepressant|to treat depression and neuropathic pain|CN(C)CCC=C1c2ccccc2CCc2ccccc12
imipramine|C19H24N2|tricyclic antidepressant|to treat depression|CN(C)CCCN1c2ccccc2CCc2ccccc12
bupropion|C13H18ClNO|aminoketone antidepressant|to help people to stop smoking|CC(NC(C)(C)C)C(=O)c1cccc(Cl)c1
venlafaxine|C17H27NO2|serotonin and noradrenaline reuptake inhibitor|to treat depression|\
COc1ccc(cc1)C(CN(C)C)C1(O)CCCCC1
chlorpromazine|C17H19ClN2S|phenothiazine antipsychotic|to treat schizophrenia|CN(C)CCCN1c2ccccc2Sc2ccc(Cl)cc12
haloperidol|C21H23ClFNO2|butyrophenone antipsychotic|to treat schizophrenia|OC1(CCN(CCCC(=O)c2ccc(F)cc2)CC1)c1ccc(Cl)cc1
clozapine|C18H19ClN4|atypical antipsychotic|to treat resistant schizophrenia|CN1CCN(CC1)C1=Nc2cc(Cl)ccc2Nc2ccccc12
levodopa|C9H11NO4|dopamine precursor|to treat Parkinson disease|NC(Cc1ccc(O)c(O)c1)C(=O)O
carbidopa|C10H14N2O4|aromatic amino acid decarboxylase inhibitor|with levodopa to treat Parkinson disease|\
CC(Cc1ccc(O)c(O)c1)(NN)C(=O)O
selegiline|C13H17N|monoamine oxidase B inhibitor|to treat Parkinson disease|CC(Cc1ccccc1)N(C)CC#C
amantadine|C10H17N|adamantane|to treat Parkinson disease|NC12CC3CC(CC(C3)C1)C2
memantine|C12H21N|NMDA receptor antagonist|to treat Alzheimer disease|CC12CC3CC(C)(C1)CC(N)(C3)C2
donepezil|C24H29NO3|acetylcholinesterase inhibitor|to treat Alzheimer disease|\
COc1cc2CC(CC3CCN(Cc4ccccc4)CC3)C(=O)c2cc1OC
methylphenidate|C14H19NO2|central nervous system stimulant|to treat attention deficit hyperactivity disorder|\
COC(=O)C(C1CCCCN1)c1ccccc1
atropine|C17H23NO3|muscarinic antagonist|to treat slow heart rate|CN1C2CCC1CC(C2)OC(=O)C(CO)c1ccccc1
neostigmine|C12H19N2O2+|acetylcholinesterase inhibitor|to treat myasthenia gravis|CN(C)C(=O)Oc1cccc(c1)[N+](C)(C)C
propranolol|C16H21NO2|beta blocker|to treat high blood pressure|CC(C)NCC(O)COc1cccc2ccccc12
atenolol|C14H22N2O3|beta blocker|to treat high blood pressure|CC(C)NCC(O)COc1ccc(CC(N)=O)cc1
metoprolol|C15H25NO3|beta blocker|to treat angina|COCCc1ccc(OCC(O)CNC(C)C)cc1
salbutamol|C13H21NO3|beta-2 agonist|to treat asthma|CC(C)(C)NCC(O)c1ccc(O)c(CO)c1
captopril|C9H15NO3S|angiotensin-converting enzyme inhibitor|to treat high blood pressure|CC(CS)C(=O)N1CCCC1C(=O)O
enalapril|C20H28N2O5|angiotensin-converting enzyme inhibitor|to treat high blood pressure|\
CCOC(=O)C(CCc1ccccc1)NC(C)C(=O)N1CCCC1C(=O)O
lisinopril|C21H31N3O5|angiotensin-converting enzyme inhibitor|to treat heart failure|\
NCCCCC(NC(CCc1ccccc1)C(=O)O)C(=O)N1CCCC1C(=O)O
losartan|C22H23ClN6O|angiotensin II receptor blocker|to treat high blood pressure|\
CCCCc1nc(Cl)c(CO)n1Cc1ccc(cc1)-c1ccccc1-c1nn[nH]n1
nifedipine|C17H18N2O6|calcium channel blocker|to treat high blood pressure|\
COC(=O)C1=C(C)NC(C)=C(C1c1ccccc1[N+](=O)[O-])C(=O)OC
amlodipine|C20H25ClN2O5|calcium channel blocker|to treat high blood pressure|\
CCOC(=O)C1=C(COCCN)NC(C)=C(C1c1ccccc1Cl)C(=O)OC
verapamil|C27H38N2O4|calcium channel blocker|to treat supraventricular tachycardia|\
COc1ccc(CCN(C)CCCC(C#N)(C(C)C)c2ccc(OC)c(OC)c2)cc1OC
hydrochlorothiazide|C7H8ClN3O4S2|thiazide diuretic|to treat high blood pressure|NS(=O)(=O)c1cc2c(cc1Cl)NCNS2(=O)=O
furosemide|C12H11ClN2O5S|loop diuretic|to treat oedema|NS(=O)(=O)c1cc(C(=O)O)c(NCc2ccco2)cc1Cl
acetazolamide|C4H6N4O3S2|carbonic anhydrase inhibitor|to treat glaucoma|CC(=O)Nc1nnc(s1)S(N)(=O)=O
spironolactone|C24H32O4S|mineralocorticoid receptor antagonist|to treat heart failure|\
CC(=O)SC1CC2=CC(=O)CCC2(C)C2CCC3(C)C(CCC43CCC(=O)O4)C12
warfarin|C19H16O4|vitamin K antagonist|to prevent blood clots|CC(=O)CC(c1ccccc1)C1=C(O)c2ccccc2OC1=O
clopidogrel|C16H16ClNO2S|platelet P2Y12 inhibitor|to prevent stroke and heart attack|\
COC(=O)C(c1ccccc1Cl)N1CCc2sccc2C1
lovastatin|C24H36O5|statin|to lower cholesterol|CCC(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C12
simvastatin|C25H38O5|statin|to lower cholesterol|CCC(C)(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C12
atorvastatin|C33H35FN2O5|statin|to lower cholesterol|\
CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CCC(O)CC(O)CC(=O)O
fenofibrate|C20H21ClO4|fibrate|to lower triglycerides|CC(C)OC(=O)C(C)(C)Oc1ccc(cc1)C(=O)c1ccc(Cl)cc1
nitroglycerin|C3H5N3O9|nitrate vasodilator|to relieve angina|O=[N+]([O-])OCC(CO[N+](=O)[O-])O[N+](=O)[O-]
metformin|C4H11N5|biguanide|to treat type 2 diabetes|CN(C)C(=N)NC(N)=N
glibenclamide|C23H28ClN3O5S|sulfonylurea|to treat type 2 diabetes|\
COc1ccc(Cl)cc1C(=O)NCCc1ccc(cc1)S(=O)(=O)NC(=O)NC1CCCCC1
tolbutamide|C12H18N2O3S|sulfonylurea|to treat type 2 diabetes|CCCCNC(=O)NS(=O)(=O)c1ccc(C)cc1
pioglitazone|C19H20N2O3S|thiazolidinedione|to treat type 2 diabetes|CCc1ccc(CCOc2ccc(CC3SC(=O)NC3=O)cc2)nc1
omeprazole|C17H19N3O3S|proton pump inhibitor|to treat peptic ulcer|COc1ccc2[nH]c(nc2c1)S(=O)Cc1ncc(C)c(OC)c1C
cimetidine|C10H16N6S|histamine H2 receptor antagonist|to treat peptic ulcer|CNC(=NCCSCc1[nH]cnc1C)NC#N
loratadine|C22H23ClN2O2|histamine H1 receptor antagonist|to treat hay fever|\
CCOC(=O)N1CCC(=C2c3ccc(Cl)cc3CCc3cccnc23)CC1
diphenhydramine|C17H21NO|histamine H1 receptor antagonist|to treat allergy|CN(C)CCOC(c1ccccc1)c1ccccc1
cetirizine|C21H25ClN2O3|histamine H1 receptor antagonist|to treat hay fever|OC(=O)COCCN1CCN(CC1)C(c1ccccc1)c1ccc(Cl)cc1
ondansetron|C18H19N3O|serotonin 5-HT3 receptor antagonist|to prevent nausea|Cc1nccn1CC1CCc2c(C1=O)c1ccccc1n2C
sildenafil|C22H30N6O4S|phosphodiesterase 5 inhibitor|to treat erectile dysfunction|\
CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(ccc1OCC)S(=O)(=O)N1CCN(C)CC1
allopurinol|C5H4N4O|xanthine oxidase inhibitor|to prevent gout|O=c1[nH]cnc2[nH]ncc12
colchicine|C22H25NO6|tubulin binder|to treat acute gout|COc1cc2CCC(NC(C)=O)c3cc(=O)c(OC)ccc3-c2c(OC)c1OC
"""
