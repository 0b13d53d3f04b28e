"""What molecules do: one action of some of the molecules of the other tables. `NAME ...` makes a sentence."""

from __future__ import annotations

ACTIONS = """
aspirin|irreversibly acetylates cyclooxygenase
ibuprofen|relieves pain and fever by inhibiting cyclooxygenase
naproxen|relieves pain by inhibiting cyclooxygenase
diclofenac|relieves pain by inhibiting cyclooxygenase
paracetamol|relieves pain and fever
salicylic acid|softens the horny layer of the skin
caffeine|blocks adenosine receptors
theophylline|relaxes the smooth muscle of the airways
morphine|activates the mu-opioid receptor
codeine|is converted to morphine by the enzyme CYP2D6
lidocaine|blocks voltage-gated sodium channels
benzocaine|blocks voltage-gated sodium channels
procaine|blocks voltage-gated sodium channels
metformin|lowers blood glucose in type 2 diabetes
propranolol|lowers heart rate and blood pressure
atenolol|lowers heart rate and blood pressure
metoprolol|lowers heart rate and blood pressure
captopril|inhibits the formation of angiotensin II
enalapril|lowers blood pressure
amlodipine|lowers blood pressure
nifedipine|lowers blood pressure
furosemide|increases the excretion of salt and water
hydrochlorothiazide|increases the excretion of salt and water
warfarin|inhibits vitamin K epoxide reductase
omeprazole|reduces the secretion of gastric acid
cimetidine|reduces the secretion of gastric acid
diphenhydramine|relieves allergic symptoms and causes drowsiness
loratadine|relieves allergic symptoms
cetirizine|relieves allergic symptoms
diazepam|enhances the effect of GABA at the GABA-A receptor
haloperidol|blocks dopamine D2 receptors
chlorpromazine|blocks dopamine D2 receptors
carbamazepine|stabilises voltage-gated sodium channels
phenytoin|stabilises voltage-gated sodium channels
amoxicillin|inhibits the synthesis of the bacterial cell wall
ciprofloxacin|inhibits bacterial DNA gyrase
trimethoprim|inhibits bacterial dihydrofolate reductase
sulfamethoxazole|inhibits bacterial folate synthesis
metronidazole|kills anaerobic bacteria
chloramphenicol|inhibits protein synthesis at the bacterial ribosome
linezolid|inhibits protein synthesis at the bacterial ribosome
isoniazid|inhibits the synthesis of mycolic acids
fluconazole|inhibits the synthesis of ergosterol
chloroquine|prevents the detoxification of haem in the malaria parasite
aciclovir|inhibits herpesvirus DNA polymerase
fluorouracil|inhibits thymidylate synthase
methotrexate|inhibits dihydrofolate reductase
cyclophosphamide|cross-links DNA after activation in the liver
gefitinib|inhibits the epidermal growth factor receptor
erlotinib|inhibits the epidermal growth factor receptor
allopurinol|lowers uric acid in gout
testosterone|is the principal male sex hormone
progesterone|maintains pregnancy
estradiol|is the principal female sex hormone
cortisol|raises blood glucose during stress
cholesterol|stiffens animal cell membranes
dopamine|is made from levodopa
adrenaline|raises heart rate
noradrenaline|constricts blood vessels
serotonin|is made from tryptophan
melatonin|regulates the sleep-wake cycle
histamine|is released by mast cells in allergic reactions
acetylcholine|acts at the neuromuscular junction
creatine|stores energy in muscle as a phosphate
urea|carries nitrogen out of the body in urine
uric acid|crystallises in the joints in gout
adenine|pairs with thymine in DNA
guanine|pairs with cytosine in DNA
cytosine|pairs with guanine in DNA
thymine|pairs with adenine in DNA
uracil|replaces thymine in RNA
adenosine|slows conduction through the atrioventricular node
lactic acid|is the end product of anaerobic glycolysis
pyruvic acid|is the end product of aerobic glycolysis
citric acid|gives the citric acid cycle its name
succinic acid|is an intermediate of the citric acid cycle
fumaric acid|is an intermediate of the citric acid cycle
ascorbic acid|is required for the hydroxylation of collagen
nicotinamide|is a part of the coenzyme NAD
pyridoxine|is the precursor of pyridoxal phosphate
retinol|is oxidised to retinal, the chromophore of rhodopsin
biotin|is the coenzyme of carboxylases
riboflavin|is the precursor of FAD
arachidonic acid|is the precursor of prostaglandins
oleic acid|is the main fatty acid of olive oil
palmitic acid|is the first fatty acid made by fatty acid synthase
ethanol|is oxidised to acetaldehyde by alcohol dehydrogenase
glycerol|is the backbone of triglycerides
lisinopril|inhibits the formation of angiotensin II
benzylpenicillin|inhibits the synthesis of the bacterial cell wall
ampicillin|inhibits the synthesis of the bacterial cell wall
cefalexin|inhibits the synthesis of the bacterial cell wall
simvastatin|inhibits HMG-CoA reductase
lovastatin|inhibits HMG-CoA reductase
atorvastatin|inhibits HMG-CoA reductase
colchicine|prevents the polymerisation of tubulin
donepezil|slows the breakdown of acetylcholine
neostigmine|slows the breakdown of acetylcholine
naloxone|blocks opioid receptors
celecoxib|inhibits cyclooxygenase-2
oseltamivir|inhibits the release of new influenza virus from cells
levofloxacin|inhibits bacterial DNA gyrase
terbinafine|inhibits squalene epoxidase
pyrimethamine|inhibits the dihydrofolate reductase of protozoa
anastrozole|lowers the formation of oestrogens
hydroxycarbamide|increases the share of fetal haemoglobin
disulfiram|inhibits aldehyde dehydrogenase
acetylcysteine|restores glutathione
penicillamine|binds copper
salbutamol|opens the airways
tetracycline|inhibits protein synthesis at the bacterial ribosome
leflunomide|inhibits the synthesis of pyrimidines
menthol|activates the cold receptor TRPM8
capsaicin|activates the heat receptor TRPV1
nicotine|activates nicotinic acetylcholine receptors
"""
